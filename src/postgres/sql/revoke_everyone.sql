-- Ends every session of every user.
DELETE FROM :sessions AS s
