"""Where joints come from: heads that read a model's last hidden state, their files, and whose they are."""
