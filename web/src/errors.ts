/** The user's mistake or a bad file, never a defect: the message says what was got, what is allowed, and where. */
export class SternaError extends Error {
  override readonly name = "SternaError";
}
