"""How do entries compare, figure by figure, and how is that told?"""
