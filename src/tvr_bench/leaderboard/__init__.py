"""Results: the record of one run, the leaderboard over all records, and what a person sees."""
