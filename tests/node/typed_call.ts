// The types of openapi-typescript, as a caller uses them. tsc checks this file beside the generated api.d.ts.
import type { operations } from "./api";

type Answer<Name extends keyof operations> = operations[Name] extends {
  responses: { 200: { content: { "application/json": infer Body } } };
}
  ? Body
  : never;
type Mute = Answer<"muteMembers">;

export const users = (answer: Mute): string[] => answer.data.map(({ user }) => user);
export const action: Mute["action"] = "post";
// @ts-expect-error: the action of this operation is another.
export const otherAction: Mute["action"] = "put";
// @ts-expect-error: a user is no number.
export const noNumber = (answer: Mute): number => answer.data[0].user;

export const rooms = (answer: Answer<"muteRoom">): string[] => answer.result.mute;
export const code: Answer<"muteRoom">["RC"] = 0;
// @ts-expect-error: success has this code only.
export const otherCode: Answer<"muteRoom">["RC"] = 404;
