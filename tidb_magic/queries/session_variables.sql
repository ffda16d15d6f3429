-- What a connection of ours needs: see session_variables.py.
SET {assignments}
