//! Calls that are refused, each with its documented error.

use super::*;

#[tokio::test]
async fn every_admin_path_refuses_a_missing_or_unknown_api_key() {
    let server = Server::start().await;
    let user = server.user_token(IMKIT, ME);
    for (method, path, body) in ADMIN_PATHS {
        for headers in [
            vec![],
            vec![("IM-API-KEY", "")],
            vec![("IM-API-KEY", "wrong")],
            vec![("IM-API-KEY", "dev-client-key")],
            vec![CLIENT_KEY, ("IM-Authorization", &user)],
        ] {
            assert_golden(
                "error_api_key",
                sent(server.rest(method.clone(), path, &headers).body(body)).await,
            );
        }
    }
    assert_eq!(client(&server, "aaa").await["mute"], json!([]));
}

#[tokio::test]
async fn an_app_token_does_not_replace_an_api_key() {
    let server = Server::start().await;
    let app = format!("Bearer {}", server.app_token(IMKIT));
    for (method, path, body) in ADMIN_PATHS {
        for headers in [
            vec![("IM-API-KEY", "wrong"), ("Authorization", &*app)],
            vec![("Authorization", &*app)],
        ] {
            assert_golden(
                "error_api_key",
                sent(server.rest(method.clone(), path, &headers).body(body)).await,
            );
        }
    }
}

#[tokio::test]
async fn every_user_path_refuses_a_missing_or_unknown_client_key() {
    let server = Server::start().await;
    let token = server.user_token(IMKIT, ME);
    for (method, path) in OWN_PATHS {
        for key in [None, Some(""), Some("wrong"), Some("dev-api-key")] {
            let request = server.rest(method.clone(), path, &[("IM-Authorization", &token)]);
            assert_golden(
                "error_client_key",
                sent(
                    key.into_iter()
                        .fold(request, |request, key| request.header("IM-CLIENT-KEY", key)),
                )
                .await,
            );
        }
    }
}

#[tokio::test]
async fn every_user_path_refuses_a_missing_bad_or_foreign_token() {
    let server = Server::start().await;
    let exp = START_MS / 1_000 + 60;
    let other = server.user_token(AGORA, "user1");
    let app = server.app_token(IMKIT);
    let forged = signed(&json!({"id": ME, "exp": exp}), "another secret");
    let endless = signed(&json!({"id": ME}), "dev-token-secret of SampleApp");
    let without_user = signed(&json!({"exp": exp}), "dev-token-secret of SampleApp");
    for (method, path) in OWN_PATHS {
        assert_golden("error_token", sent(server.rest(method.clone(), path, &[CLIENT_KEY])).await);
        for token in ["", "Bearer ", "x", "a.b.c", &other, &app, &forged, &endless, &without_user] {
            assert_golden(
                "error_token",
                sent(me_request(&server, method.clone(), path, token)).await,
            );
        }
    }
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let server = Server::start().await;
    let token = server.user_token(IMKIT, ME);
    server.advance(3_599_000);
    assert_eq!(sent(me_request(&server, Method::GET, "/me", &token)).await.0, 200);
    server.advance(1_000);
    assert_golden("error_token", sent(me_request(&server, Method::GET, "/me", &token)).await);
}

#[tokio::test]
async fn an_unknown_client_is_reported_before_an_unknown_room() {
    let server = Server::start().await;
    for method in [Method::POST, Method::DELETE] {
        for path in ["nobody/mute/demo", "nobody/mute/nowhere"] {
            assert_golden(
                "error_client",
                server.imkit(method.clone(), &format!("/admin/clients/{path}"), None).await,
            );
        }
        assert_golden(
            "error_room",
            server.imkit(method.clone(), "/admin/clients/aaa/mute/nowhere", None).await,
        );
        assert_golden("error_room", as_me(&server, method, "/me/mute/nowhere").await);
    }
}

#[tokio::test]
async fn a_user_without_a_client_gets_the_unknown_client_error() {
    let server = Server::start().await;
    for (method, path) in OWN_PATHS {
        assert_golden("error_client", server.me(method, path, "nobody").await);
    }
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let server = Server::start().await;
    for path in ["/admin/clients", "/rooms"] {
        for raw in ["", "{", "_id=a"] {
            assert_golden(
                "error_json",
                sent(server.rest(Method::POST, path, &[API_KEY]).body(raw)).await,
            );
        }
        for raw in ["[]", "1", "null"] {
            let (status, body) = sent(server.rest(Method::POST, path, &[API_KEY]).body(raw)).await;
            assert_eq!((status, &body["error"]["code"]), (400, &json!("INVALID_REQUEST")), "{raw}");
        }
    }
}

#[tokio::test]
async fn bodies_without_an_id_or_with_wrong_types_are_refused() {
    let server = Server::start().await;
    for path in ["/admin/clients", "/rooms"] {
        for body in [json!({}), json!({"_id": null}), json!({"_id": ""})] {
            assert_golden("error_no_id", server.imkit(Method::POST, path, Some(body)).await);
        }
    }
    let long = "x".repeat(65);
    for wrong in [
        json!({"_id": 1}),
        json!({"_id": "a", "nickname": 1}),
        json!({"_id": "a", "isRobot": "yes"}),
        json!({"_id": "a", "issueAccessToken": "true"}),
        json!({"_id": long}),
    ] {
        let (status, body) = upsert(&server, wrong.clone()).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("INVALID_REQUEST")), "{wrong}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_get_the_error_envelope() {
    let server = Server::start().await;
    for path in [
        "/admin",
        "/admin/nothing",
        "/admin/clients//",
        "/admin/clients/aaa/mute",
        "/me/nothing",
        "/me//",
        "/rooms/a/b/c",
    ] {
        assert_golden("error_no_path", server.imkit(Method::GET, path, None).await);
    }
    for (method, path) in [
        (Method::PUT, "/admin/clients"),
        (Method::POST, "/admin/clients/aaa"),
        (Method::GET, "/admin/clients/aaa/mute/demo"),
        (Method::GET, "/rooms"),
        (Method::DELETE, "/me"),
        (Method::PATCH, "/me/mute/demo"),
    ] {
        assert_golden("error_method", server.imkit(method, path, None).await);
    }
}

#[tokio::test]
async fn too_long_bodies_and_uris_get_the_error_envelope() {
    let server = Server::start().await;
    let long = "x".repeat(64 << 10);
    assert_golden("error_too_large", upsert(&server, json!({"_id": "new", "note": long})).await);
    assert_golden(
        "error_too_large",
        server.imkit(Method::POST, "/rooms", Some(json!({"_id": long}))).await,
    );
    assert_golden(
        "error_uri_too_long",
        mute(&server, &format!("aaa/mute/{}", &long[..16 << 10])).await,
    );
    assert_golden(
        "error_uri_too_long",
        as_me(&server, Method::GET, &format!("/me?x={}", &long[..16 << 10])).await,
    );
}

#[tokio::test]
async fn the_101st_call_in_a_second_gets_a_retry_after() {
    let server = Server::with(limited()).await;
    let get = || server.rest(Method::GET, "/admin/clients/aaa", &[API_KEY]);
    for _ in 0..100 {
        assert_eq!(sent(get()).await.0, 200);
    }
    let (status, retry_after, body) = refusal(get()).await;
    assert_eq!(retry_after.as_deref(), Some("1"));
    assert_golden("error_rate", (status, body));
    assert_eq!(mute(&server, "aaa/mute/demo").await.0, 200);
    server.advance(1_000);
    assert_eq!(sent(get()).await.0, 200);
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_is_refused() {
    let server = Server::start().await;
    assert_golden("error_utf_8", mute(&server, "%ff/mute/demo").await);
    assert_golden("error_utf_8", unmute(&server, "aaa/mute/%c3%28").await);
    assert_golden("error_utf_8", as_me(&server, Method::POST, "/me/mute/%ff").await);
}

#[tokio::test]
async fn ids_with_control_characters_or_too_long_are_refused() {
    let server = Server::start().await;
    let long = "x".repeat(129);
    for path in [
        "a%00b/mute/demo",
        "aaa/mute/a%0Ab",
        &format!("aaa/mute/{long}"),
        &format!("{}/mute/demo", &long[..65]),
    ] {
        let (status, body) = mute(&server, path).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("INVALID_REQUEST")), "{path}");
    }
}
