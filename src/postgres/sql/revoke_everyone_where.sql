-- Ends the sessions of every user with these values.
DELETE FROM :sessions AS s
WHERE true
  :matching
RETURNING s.id
