"""The commands as they are typed: one file for each kind of them. What they do is elsewhere."""
