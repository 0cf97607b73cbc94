"""People in video: decoding, boxes of tracks, a detector and a tracker. Needs the extra `video`."""
