-- Returns whether the table still contains a session that revoke.sql should have deleted.
SELECT EXISTS (
    SELECT
    FROM :sessions AS s
    WHERE s.user_id :equals :user_id
      AND (:only::pg_catalog.uuid IS NULL OR s.id OPERATOR(pg_catalog.=) :only)
      AND (:except::pg_catalog.uuid IS NULL OR s.id OPERATOR(pg_catalog.<>) :except)
      :matching
)
