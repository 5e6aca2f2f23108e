// Runs in a page, after the vendor's script: makes the calls that the gateway serves, as this user. Returns what each answered, by the name of the call.
window.callGateway = async (apiUrl, accessToken) => {
  const sdk = window.websdk.connection ? window.websdk : window.websdk.default;
  // Without the vendor's socket: only what logging in would set.
  const client = new sdk.connection({ appKey: "easemob-demo#testapp", apiUrl, url: "ws://127.0.0.1:1", isHttpDNS: false });
  Object.assign(client, { user: "owner1", token: accessToken, clientResource: "page", logOut: false });
  Object.assign(client.context, {
    appKey: "easemob-demo#testapp", orgName: "easemob-demo", appName: "testapp", userId: "owner1", accessToken, restTokenData: accessToken,
  });
  client.context.jid = { appKey: "easemob-demo#testapp", name: "owner1", domain: "easemob.com", clientResource: "page" };
  const chatRoomId = "1265710621211";
  const member = { chatRoomId, username: "user1" };
  const user = { chatRoomId, userName: "user1" };
  const answers = {};
  const call = async (name, method, options) => {
    try {
      answers[name] = (await client[method](options)).data;
    } catch (error) {
      answers[name] = `failed: ${error.type} ${error.message} ${JSON.stringify(error.data)}`;
    }
  };
  await call("mute", "muteChatRoomMember", { ...member, muteDuration: -1 });
  await call("list", "getChatRoomMutelist", { chatRoomId });
  await call("unmute", "unmuteChatRoomMember", member);
  await call("is_muted", "isInChatRoomMutelist", { chatRoomId });
  await call("ban", "disableSendChatRoomMsg", { chatRoomId });
  await call("room", "getChatRoomDetails", { chatRoomId });
  await call("unban", "enableSendChatRoomMsg", { chatRoomId });
  await call("allow", "addUsersToChatRoomAllowlist", { chatRoomId, users: ["user1"] });
  await call("allowed", "getChatRoomAllowlist", { chatRoomId });
  await call("is_allowed", "isInChatRoomAllowlist", user);
  await call("disallow", "removeChatRoomAllowlistMember", user);
  await call("no_room", "getChatRoomMutelist", { chatRoomId: "1" });
  return answers;
};
