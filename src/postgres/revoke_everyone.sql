-- End every session of everybody.
DELETE FROM :sessions AS s
