"""A user study: people are shown two results side by side and say which one is better.

What they will see is fixed when the study is built (`study_file`); what they say is stored an
answer at a time (`votes`).
"""
