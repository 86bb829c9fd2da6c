"""What is derived from commits: index, final rows, page?"""
