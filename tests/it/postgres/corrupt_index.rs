//! A corrupt index that leads to the row of another session or another user.

use ephemeral_postgres::TestDatabase;
use tower_user_session::{ErrorKind, session::SessionToken};

use crate::support::{
    database,
    fault::{ObservedFault, send},
    sessions,
};

/// Makes the index lead to the other one of two rows, by swapping it with an index of a copy of the
/// table whose rows are in the opposite order.
fn swap(table: &str, index: &str, order: &str) -> String {
    format!(
        "CREATE TABLE copy (LIKE {table} INCLUDING ALL);
         INSERT INTO copy SELECT * FROM {table} ORDER BY {order} DESC;
         CREATE TEMPORARY TABLE files AS
             SELECT ours.oid AS ours, ours.relfilenode AS our_file, theirs.oid AS theirs, theirs.relfilenode AS their_file
             FROM pg_class AS ours, pg_class AS theirs
             WHERE ours.relname = '{index}' AND theirs.relname = replace('{index}', '{table}', 'copy');
         UPDATE pg_class SET relfilenode = their_file FROM files WHERE pg_class.oid = ours;
         UPDATE pg_class SET relfilenode = our_file FROM files WHERE pg_class.oid = theirs;
         DROP TABLE files"
    )
}

async fn corrupt(database: &TestDatabase, statements: &str) {
    let client = database.client().await;
    client.batch_execute(statements).await.unwrap();
}

/// M10: one line per index. The row that the index leads to is never taken for the requested one.
#[tokio::test]
async fn a_row_with_another_digest_is_an_error() {
    for (table, index, order) in [
        ("sessions", "sessions_token_digest_key", "created_at"),
        ("users", "users_pkey", "id"),
    ] {
        let database = database().await;
        let before = sessions(&database);
        let ada = before.sign_in_without_request(1).await.unwrap();
        let eve = before.sign_in_without_request(2).await.unwrap();
        before.close().await;
        corrupt(&database, &swap(table, index, order)).await;

        for sessions in [
            sessions(&database),
            tower_user_session::SessionService::new(
                tower_user_session::PgSessionStore::new(crate::support::pool(&database, 2))
                    .with_transaction_pooling(),
            ),
        ] {
            for token in [ada.token(), eve.token()] {
                // Alone, and together with the other one.
                let error = sessions.user(token).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Protocol, "{index}: {error:?}");
                let (one, other) =
                    tokio::join!(sessions.user(ada.token()), sessions.user(eve.token()));
                assert!(one.is_err() && other.is_err(), "{index}");
            }
            let unknown = SessionToken::generate().unwrap();
            assert_eq!(sessions.user(&unknown).await.unwrap(), None);
        }

        let sessions = sessions(&database);
        let fault = ObservedFault::begin("a corrupt index returns another row", &sessions);
        let request = async || {
            send(&sessions, ada.token()).await;
        };
        fault.becomes_visible(request).await;
        corrupt(&database, &format!("REINDEX INDEX {index}")).await;
        fault.ends(request).await;
    }
}
