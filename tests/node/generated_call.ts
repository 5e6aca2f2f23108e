// node generated_call.js REST_URL TOKEN: mutes two members with the client that openapi-generator has made; prints the action and the users.
import { AgoraMemberMutesApi, Configuration, type MuteMembersAnswer } from "./client";

declare const process: { argv: string[] };

const call = async (basePath: string, accessToken: string) => {
  const api = new AgoraMemberMutesApi(new Configuration({ basePath, accessToken }));
  const room = { orgName: "easemob-demo", appName: "testapp", room: "1265710621211" };
  const answer: MuteMembersAnswer = await api.muteMembers({ ...room, muteMembers: { usernames: ["user1", "user2"], mute_duration: -1 } });
  const users: string[] = answer.data.map((element) => element.user);
  console.log(JSON.stringify([answer.action, ...users]));
};

void call(process.argv[2], process.argv[3]);
