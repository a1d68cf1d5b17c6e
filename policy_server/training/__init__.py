"""Training: data sets, the joint objective, its stages, LoRA, and the plan of what a run needs.

The modules need torch; nothing is imported here, so that naming the package stays cheap.
"""
