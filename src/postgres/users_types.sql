-- Of which types are these expressions over the user's tables? One row, and no user is read for it: a
-- record says of which types its fields are, though all of them are null.
SELECT ROW(described.*)
FROM (SELECT) AS one
LEFT JOIN (
    SELECT :expressions
    FROM :from
    WHERE false
) AS described ON true
