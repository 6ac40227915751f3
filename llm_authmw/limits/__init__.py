"""How much: rate limits and budgets, reserved before the app runs and settled to the truth after, on every way out."""
