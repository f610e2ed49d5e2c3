"""`python -m simulator run`: a scenario in virtual time, its report and its pictures."""
