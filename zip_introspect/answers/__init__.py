"""What a text says as its answer, in one form for votes, results and graders."""
