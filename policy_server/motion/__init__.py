"""Motion image diffusion: flow as pictures, the frozen autoencoder, and the head that predicts them.

The modules need torch; nothing is imported here, so that naming the package stays cheap.
"""
