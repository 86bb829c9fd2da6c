"""Pictures: how they are read, fitted, coloured and judged."""
