"""Exchange of weights with the published PyTorch implementation, without PyTorch."""
