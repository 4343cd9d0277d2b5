-- Returns whether the table contains a session whose digest rotate.sql should have replaced.
SELECT EXISTS (
    SELECT
    FROM :sessions AS s
    WHERE s.token_digest OPERATOR(pg_catalog.=) ANY (:replaced::pg_catalog.bytea[])
      AND s.user_id :equals :user_id
      AND :live
      AND :user_allowed
)
