"""What will a run cost, before it is paid for: measured, remembered, or guessed?"""
