"""How to walk between noise and pictures: schedules, steps, guidance. Pure functions; no network is known
here.
"""
