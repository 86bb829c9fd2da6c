"""How are hours, money and other amounts told to people: with digits enough, and no exponent?"""

from __future__ import annotations

from decimal import Decimal


def plain_number(value: float) -> str:
    """A number of which two significant digits at least are told: 1235, 40, 2.5, 0.00031."""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 1:
        told = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
        return told.rstrip("0").rstrip(".")
    return f"{Decimal(f'{value:.2g}'):f}"


def money(amount: float) -> str:
    """An amount of whatever money the job's price is in, to the cent; less than one as it is."""
    return plain_number(amount) if 0 < amount < 0.01 else f"{amount:.2f}"
