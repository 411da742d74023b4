"""Evidence: how good the predictions are, and what the search buys with them."""
