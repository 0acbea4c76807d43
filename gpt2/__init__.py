"""GPT-2: the model, its initialisation, the tokenizer and the token stream, in plain PyTorch.

Importing this package does not import torch, so that the configuration can name its types.
"""
