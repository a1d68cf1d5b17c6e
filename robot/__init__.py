"""The robot PC: drivers, robotd, the 15 Hz client, recording, console and the digital twin.

Nothing in here imports torch.
"""
