"""How is a run checked, mended, cleaned and watched?"""
