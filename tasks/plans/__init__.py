"""Which items; how does a plan become binding; how does it grow?"""
