//! The client. It signs up, signs in and calls the methods that require a user. Start it while the
//! server runs:
//!
//! ```sh
//! cargo run -p example-tonic --bin client
//! ```

use std::env;

use example_tonic::proto::{
    CountdownRequest, Credentials, Nothing, accounts_client::AccountsClient, me_client::MeClient,
};
use tonic::{Code, Request, metadata::MetadataValue, transport::Endpoint};
use tower_user_session::BoxError;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "prints the responses")]
async fn main() -> Result<(), BoxError> {
    let server = env::var("SERVER").unwrap_or_else(|_| "http://127.0.0.1:3000".to_owned());
    let channel = Endpoint::from_shared(server)?.connect().await?;
    let mut accounts = AccountsClient::new(channel.clone());

    let refused = MeClient::new(channel.clone()).who_am_i(Nothing {}).await;
    println!(
        "without a session: {:?}",
        refused.map_err(|status| status.code())
    );

    let credentials = Credentials {
        email: "ada@example.com".to_owned(),
        password: "correct horse battery staple".to_owned(),
    };
    match accounts.sign_up(credentials.clone()).await {
        Err(status) if status.code() != Code::AlreadyExists => return Err(status.into()),
        _ => println!("signed up"),
    }
    let signed_in = accounts.sign_in(credentials).await?.into_inner();
    println!("signed in");

    let mut authorization: MetadataValue<_> = format!("Bearer {}", signed_in.token).parse()?;
    authorization.set_sensitive(true);
    let carry_token = |mut request: Request<()>| {
        request
            .metadata_mut()
            .insert("authorization", authorization.clone());
        Ok(request)
    };
    let mut me = MeClient::with_interceptor(channel, carry_token);
    let user = me.who_am_i(Nothing {}).await?.into_inner();
    println!("I am {} ({})", user.email, user.id);
    let mut countdown = me
        .countdown(CountdownRequest { times: 3 })
        .await?
        .into_inner();
    while let Some(remaining) = countdown.message().await? {
        println!("the session ends in {} seconds", remaining.seconds);
    }
    Ok(())
}
