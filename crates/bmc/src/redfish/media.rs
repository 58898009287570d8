//! Virtual media: which slot takes a CD, and how it is told to.

use serde_json::{Value, json};

use super::json;

/// A slot that takes a CD, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its path.
    pub(crate) path: String,
    /// Target of its insert action; without, the image is patched in.
    pub(crate) insert: Option<String>,
    /// Target of its eject action; without, the image is patched out.
    pub(crate) eject: Option<String>,
}

/// The slot that a virtual media resource is, if it takes a CD.
pub(crate) fn slot(path: &str, resource: &Value) -> Option<Slot> {
    let takes_cd = match json::strings(resource, "/MediaTypes") {
        Some(types) => types.iter().any(|media| matches!(media.as_str(), "CD" | "DVD")),
        // It does not say: its name may.
        None => named_like_cd(path),
    };
    // Something to write to: an action, or the image itself.
    let insert = insert_action(resource);
    let usable = insert.is_some() || resource.get("Image").is_some();
    (takes_cd && usable).then(|| Slot { path: path.to_owned(), insert, eject: eject_action(resource) })
}

/// Target of the insert action. Some BMCs show it only while the slot is empty.
pub(crate) fn insert_action(resource: &Value) -> Option<String> {
    json::string(resource, "/Actions/#VirtualMedia.InsertMedia/target")
}

/// Target of the eject action. Some BMCs show it only while something is in the slot.
pub(crate) fn eject_action(resource: &Value) -> Option<String> {
    json::string(resource, "/Actions/#VirtualMedia.EjectMedia/target")
}

/// In which order to look at the members of a virtual media collection: those named like a CD first.
pub(crate) fn order(mut members: Vec<json::Member>) -> Vec<json::Member> {
    members.sort_by_key(|member| (is_of_console(&member.path), !named_like_cd(&member.path)));
    members
}

/// Slots of Lenovo's remote console: they look like the others and take nothing by Redfish (XClarity Controller REST API
/// guide, "Insert/Eject a virtual media").
fn is_of_console(path: &str) -> bool {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    ["Remote", "RDOC"].iter().any(|word| name.strip_prefix(word).is_some_and(is_number))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// How the BMC reads the image (`TransferMethod`, DSP2046): piece by piece, or as a whole before it is inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// It does not say what it can.
    Unsaid,
    Stream,
    Upload,
}

impl Transfer {
    /// What a slot's insert action lists; piece by piece where it can.
    pub(crate) fn of(resource: &Value) -> Self {
        let list = "/Actions/#VirtualMedia.InsertMedia/TransferMethod@Redfish.AllowableValues";
        let listed = json::strings(resource, list).unwrap_or_default();
        let lists = |method: &str| listed.iter().any(|it| it == method);
        match (lists("Stream"), lists("Upload")) {
            (true, _) => Self::Stream,
            (false, true) => Self::Upload,
            (false, false) => Self::Unsaid,
        }
    }
}

fn named_like_cd(path: &str) -> bool {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    name.contains("cd") || name.contains("dvd")
}

/// What is in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing.
    Empty,
    /// This image.
    Image(String),
    /// Something whose URL the BMC does not tell.
    Unnamed,
    /// The BMC does not tell.
    Unknown,
}

/// What is in a slot, by its resource.
pub(crate) fn content(resource: &Value) -> Content {
    let image = json::string(resource, "/Image");
    match (json::boolean(resource, "/Inserted"), image) {
        (Some(false), _) => Content::Empty,
        (_, Some(image)) => Content::Image(image),
        (Some(true), None) => Content::Unnamed,
        (None, None) => Content::Unknown,
    }
}

/// Whether the BMC holds a connection to the image in the slot, as far as it tells.
pub(crate) fn is_connected(resource: &Value) -> bool {
    json::text(resource, "/ConnectedVia") != Some("NotConnected")
}

/// Bodies for inserting an image by the action: the first that is not refused as a bad request.
pub(crate) fn insert_bodies(url: &str, transfer: Transfer) -> Vec<Value> {
    let mut bodies = vec![json!({"Image": url, "Inserted": true, "WriteProtected": true})];
    let method = if transfer == Transfer::Upload { "Upload" } else { "Stream" };
    if transfer == Transfer::Upload {
        // It cannot do what it would take for granted.
        bodies[0]["TransferMethod"] = method.into();
    }
    if let Some(protocol) = protocol(url) {
        bodies.push(json!({"Image": url, "Inserted": true, "WriteProtected": true,
            "TransferProtocolType": protocol, "TransferMethod": method}));
    }
    bodies.push(json!({ "Image": url }));
    bodies
}

/// Bodies for inserting an image by changing the resource.
pub(crate) fn insert_patches(url: &str) -> Vec<Value> {
    vec![json!({"Image": url, "Inserted": true, "WriteProtected": true}), json!({ "Image": url })]
}

/// An image's URL without user and password, and these: BMCs take them as keys of their own (`UserName` and `Password` of
/// `InsertMedia`, DSP2046), and would show them to every reader in `Image`.
pub(crate) fn without_login(url: &str) -> (String, Option<(String, String)>) {
    let plain = || (url.to_owned(), None);
    let Ok(mut parsed) = url::Url::parse(url) else { return plain() };
    if parsed.username().is_empty() && parsed.password().is_none() {
        return plain();
    }
    let decoded = |text: &str| percent_decoded(text);
    let login = (decoded(parsed.username()), decoded(parsed.password().unwrap_or_default()));
    if parsed.set_username("").is_err() || parsed.set_password(None).is_err() {
        return plain();
    }
    (parsed.into(), Some(login))
}

/// A part of a URL as it was meant.
fn percent_decoded(text: &str) -> String {
    // A form's plus is a space; a user's is a plus.
    let form = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(form.as_bytes())
        .map(|(_, value)| value.into_owned())
        .next()
        .unwrap_or_default()
}

/// Bodies with user and password, where there are any.
pub(crate) fn with_login(mut bodies: Vec<Value>, login: Option<&(String, String)>) -> Vec<Value> {
    if let Some((user, password)) = login {
        for body in bodies.iter_mut().filter_map(Value::as_object_mut) {
            body.insert("UserName".into(), user.as_str().into());
            body.insert("Password".into(), password.as_str().into());
        }
    }
    bodies
}

/// Bodies for ejecting by changing the resource.
pub(crate) fn eject_patches() -> Vec<Value> {
    vec![json!({"Image": null, "Inserted": false}), json!({ "Image": null })]
}

/// The transfer protocol of a URL, as Redfish names it (`TransferProtocolType`, DSP2046).
pub(crate) fn protocol(url: &str) -> Option<&'static str> {
    match url.split_once("://")?.0.to_ascii_lowercase().as_str() {
        "http" => Some("HTTP"),
        "https" => Some("HTTPS"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn slots() {
        let insert = json!({"#VirtualMedia.InsertMedia": {"target": "/i"}});
        let table = [
            ("/vm/1", json!({"MediaTypes": ["Floppy", "USBStick"], "Actions": insert}), false),
            ("/vm/2", json!({"MediaTypes": ["CD", "DVD"], "Actions": insert}), true),
            ("/vm/3", json!({"MediaTypes": ["USBStick", "DVD"], "Actions": insert}), true),
            ("/vm/EXT1", json!({"MediaTypes": ["CD"], "Image": null}), true),
            ("/vm/EXT2", json!({"MediaTypes": ["CD"]}), false),
            ("/vm/CD1", json!({"Actions": insert}), true),
            ("/vm/Usb1", json!({"Actions": insert}), false),
            ("/vm/RemovableDisk", json!({"MediaTypes": "CD", "Actions": insert}), false),
            ("/vm/4", json!({"MediaTypes": ["CD"], "Actions": "odd"}), false),
            ("/vm/5", json!([]), false),
        ];
        for (path, resource, usable) in table {
            assert_eq!(slot(path, &resource).is_some(), usable, "{path} {resource}");
        }
        let found = slot("/vm/2", &json!({"MediaTypes": ["CD"], "Actions": insert})).unwrap();
        assert_eq!((found.insert.as_deref(), found.eject), (Some("/i"), None));
    }

    #[test]
    fn a_cd_is_looked_at_first() {
        let member = |path: &str| json::Member { path: path.into(), inline: None };
        let ordered = order(vec![member("/vm/RemovableDisk"), member("/vm/CD/"), member("/vm/1")]);
        assert_eq!(
            ordered.iter().map(|m| m.path.as_str()).collect::<Vec<_>>(),
            ["/vm/CD/", "/vm/RemovableDisk", "/vm/1"]
        );
        let ordered = order(vec![
            member("/vm/Remote1"),
            member("/vm/RDOC2"),
            member("/vm/EXT1"),
            member("/vm/RemoteCD"),
        ]);
        assert_eq!(
            ordered.iter().map(|m| m.path.as_str()).collect::<Vec<_>>(),
            ["/vm/RemoteCD", "/vm/EXT1", "/vm/Remote1", "/vm/RDOC2"]
        );
    }

    #[test]
    fn contents() {
        for (resource, expected) in [
            (json!({"Inserted": false, "Image": ""}), Content::Empty),
            (json!({"Inserted": false, "Image": "left over"}), Content::Empty),
            (json!({"Inserted": true, "Image": "http://x"}), Content::Image("http://x".into())),
            (json!({"Image": "http://x"}), Content::Image("http://x".into())),
            (json!({"Inserted": true}), Content::Unnamed),
            (json!({"Image": null}), Content::Unknown),
        ] {
            assert_eq!(content(&resource), expected, "{resource}");
        }
    }

    #[test]
    fn logins_are_no_part_of_the_image() {
        for (url, plain, login) in [
            ("https://x/y.iso", "https://x/y.iso", None),
            ("//srv/share", "//srv/share", None),
            ("https://u:p%20w+%26@x/y.iso?z", "https://x/y.iso?z", Some(("u", "p w+&"))),
            ("http://u@x/y", "http://x/y", Some(("u", ""))),
        ] {
            let (found, it) = without_login(url);
            assert_eq!(found, plain);
            assert_eq!(it.as_ref().map(|(user, password)| (user.as_str(), password.as_str())), login);
        }
        let login = ("u".to_owned(), "p".to_owned());
        let bodies = with_login(insert_bodies("https://x/y", Transfer::Unsaid), Some(&login));
        assert!(bodies.iter().all(|body| body["UserName"] == "u" && body["Password"] == "p"));
        let plain = insert_bodies("https://x/y", Transfer::Unsaid);
        assert_eq!(with_login(plain.clone(), None), plain);
    }

    #[test]
    fn bodies() {
        let bodies = insert_bodies("https://x/y.iso", Transfer::Unsaid);
        assert_eq!(bodies.len(), 3);
        assert_eq!(bodies[1]["TransferProtocolType"], "HTTPS");
        assert_eq!(bodies[2], json!({"Image": "https://x/y.iso"}));
        assert_eq!(insert_bodies("//srv/share", Transfer::Unsaid).len(), 2);
        assert_eq!((bodies[0].get("TransferMethod"), &bodies[1]["TransferMethod"]), (None, &json!("Stream")));
        let whole = insert_bodies("https://x/y.iso", Transfer::Upload);
        assert!(whole[..2].iter().all(|body| body["TransferMethod"] == "Upload"));
    }

    #[test]
    fn how_the_image_is_read() {
        let of = |listed: Value| {
            let action = json!({"target": "/i", "TransferMethod@Redfish.AllowableValues": listed});
            Transfer::of(&json!({"Actions": {"#VirtualMedia.InsertMedia": action}}))
        };
        assert_eq!(of(json!(["Stream", "Upload"])), Transfer::Stream);
        assert_eq!(of(json!(["Upload"])), Transfer::Upload);
        assert_eq!(of(json!("odd")), Transfer::Unsaid);
        assert_eq!(Transfer::of(&json!({})), Transfer::Unsaid);
    }
}
