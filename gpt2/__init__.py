"""GPT-2: the model, its initialisation, the tokenizer and sampling, in plain PyTorch.

Importing this package does not import torch, so that the configuration can name its types.
"""
