"""Pictures: how they are read, brought to a size, coloured and measured."""
