"""Runs of every algorithm: the loop, checkpoints, streams of draws, threads, compiled programs."""
