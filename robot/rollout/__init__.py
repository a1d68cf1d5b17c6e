"""The 15 Hz client: observations aligned in time, chunk scheduling, episodes, results.

Where to begin: `robot.rollout.session.run_rollout` runs a whole rollout, `robot.rollout.client.RolloutLoop` the loop of
one episode, `robot.rollout.chunks.ChunkScheduler` holds the timing. Nothing is imported here: the film process shares
this folder and should start at once.
"""
