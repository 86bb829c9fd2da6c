"""What is a run folder?"""
