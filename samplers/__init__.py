"""How to walk between noise and pictures: schedules, steps, guidance; functions without networks."""
