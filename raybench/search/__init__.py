"""Which trial is next: grid, random, halving, asha and tpe, as functions of the plan and of the rows there are.

A search is asked what is due and told what became of it. It holds nothing that the rows could not tell again, so
resuming is asking anew. Nothing here knows of Ray.
"""
