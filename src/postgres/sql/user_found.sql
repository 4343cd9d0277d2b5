-- Whether FROM finds the user if the session columns are null. See lock.sql.
, EXISTS (
    SELECT
    FROM :new_session LATERAL (SELECT FROM :from WHERE :key :equals :user_id) AS found
)
