"""π0 in plain PyTorch: SigLIP and Gemma, flow-matching sampling, tokenizer, transforms and checkpoints."""
