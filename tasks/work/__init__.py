"""How does a worker take a shard, render it and commit it?"""
