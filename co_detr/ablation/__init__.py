"""The paper's tables as experiments: what to train, training it, and the tables that come out.

`tables` says what a table is and `paper` holds the tables; `runs` finds out what is trained
already, `training` trains the rest, `results` reads and compares, `report` writes.
"""
