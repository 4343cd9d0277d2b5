-- Ends sessions of one user: one session, all except one, or all.
DELETE FROM :sessions AS s
WHERE s.user_id :equals :user_id
  AND (:only::pg_catalog.uuid IS NULL OR s.id OPERATOR(pg_catalog.=) :only)
  AND (:except::pg_catalog.uuid IS NULL OR s.id OPERATOR(pg_catalog.<>) :except)
  :matching
RETURNING s.id
