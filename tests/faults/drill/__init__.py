"""A drill of a whole run: workers are killed, stores fail, items are poison, and files come late.

`make drill SEED=7 LAUNCHES=40 WORKERS=3 STORE=local ITEMS=80`. What it comes to must be what an
undisturbed run comes to in the same way.
"""
