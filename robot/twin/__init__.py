"""The digital twin: a simulated Nova 5, AG-95 and two cameras, behind the wires of the real rig or in process."""
