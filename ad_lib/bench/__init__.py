"""Measuring: how fast is each way of rendering, and how far from the published result?"""
