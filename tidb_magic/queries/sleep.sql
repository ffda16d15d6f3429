-- Run for a moment, so that another connection finds this one by the token in its statement.
SELECT SLEEP(%(seconds)s)
