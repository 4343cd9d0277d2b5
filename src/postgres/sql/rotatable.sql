-- Returns whether the table contains a session whose digest rotate.sql should have replaced.
-- The condition is evaluated for this user only: see find.sql.
SELECT EXISTS (
    SELECT
    FROM :sessions AS s
    WHERE s.token_digest OPERATOR(pg_catalog.=) ANY (:replaced::pg_catalog.bytea[])
      AND s.user_id :equals :user_id
      AND :live
      AND EXISTS (SELECT FROM :from WHERE :key :equals s.user_id AND CASE WHEN :key :equals s.user_id THEN (:condition) END)
)
