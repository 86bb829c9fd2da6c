"""How are the embedded model's weights made? The recipe; a checkout has it, a wheel does not.

`python -m training.train` trains, `python -m training.export` writes the checkpoint,
`python -m training.showcase` uses it on pictures, and `python -m training.drawings` draws pictures
that it was not trained on. ad_lib/embedded/README.md is the model card.
"""
