-- Returns the types of these expressions over the user's tables, in one row. The statement reads no
-- user. The fields of the record are null, but the record contains their types.
SELECT ROW(described.*)
FROM (SELECT) AS one
LEFT JOIN (
    SELECT expressions.*
    FROM :live_session LATERAL (SELECT :expressions FROM :from) AS expressions
    WHERE false
) AS described ON true
